"""Naming bias: is a member of one group called something else than a member of another in the same situation?"""
