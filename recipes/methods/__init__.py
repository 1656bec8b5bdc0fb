"""All methods of this package, trained and measured side by side."""
