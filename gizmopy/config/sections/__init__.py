"""The standard settings by subject. ``gizmopy.config.Settings`` inherits from every section."""
