"""HTTP: the app, its routes, authentication, schemas."""
