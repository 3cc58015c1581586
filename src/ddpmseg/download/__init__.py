"""Files from the web, resumed, verified and unpacked."""
