"""What the header of an image file says, read from its bytes alone; one module for each format."""
