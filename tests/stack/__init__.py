"""`make stack`: what docker-compose.yml runs, on this machine and without containers."""
