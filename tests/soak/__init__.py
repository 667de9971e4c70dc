"""Hours of a portal's life in minutes, with everything killed at random; an oracle tells whether anything was lost."""
