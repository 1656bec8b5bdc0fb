"""A page in the browser that restores photographs: `ctsr serve`."""
