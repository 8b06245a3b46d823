"""`python -m kdexp`"""

from kdexp.cli.main import main

if __name__ == "__main__":
    main()
