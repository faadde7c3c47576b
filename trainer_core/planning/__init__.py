"""Does it fit, with which settings, and how long does it take?"""
