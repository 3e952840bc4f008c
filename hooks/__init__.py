"""What git calls: each a few lines over one command, started without typer or YAML."""
