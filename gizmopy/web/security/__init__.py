"""Security schemes: who may call an endpoint, and who the caller is.

A checker is a method or a function that is decorated with one of the schemes here. It gets the
credentials of a request, and returns the caller or refuses.
"""
