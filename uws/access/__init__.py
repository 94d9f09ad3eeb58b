"""How the server finds out who somebody is: users with passwords, tokens, sessions, JSON Web Tokens."""
