"""How the site in docs/ is made: its notebooks, what MkDocs does with them, and a check of all links."""
