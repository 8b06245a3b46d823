"""What runs found, and how it is shown. One reporting stack; it knows no study."""
