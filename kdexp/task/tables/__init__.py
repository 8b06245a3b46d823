"""Tables of text and labels as files hold them."""
