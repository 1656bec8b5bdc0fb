"""The paper's tables at full size: the trainings and measurements of each by one command."""
