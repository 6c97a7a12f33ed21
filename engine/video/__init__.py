"""Video files in and out, the deflicker filter, segments; PyAV is used only here."""
