"""What each task does: it performs one action. Every step may die anywhere and run again."""

import lazy_loader

# A command imports what it does, not all that there is, which takes a second; what each name is, __init__.pyi says.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
