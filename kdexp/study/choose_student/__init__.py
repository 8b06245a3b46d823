"""The study `choose_student`: which student to ship."""
