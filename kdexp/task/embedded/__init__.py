"""Tasks that come with kdexp: written by small grammars, so that the first run needs no download."""
