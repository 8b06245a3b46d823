"""`python -m kdexp`"""

from kdexp.cli import main

if __name__ == "__main__":
    main()
