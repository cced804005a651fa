"""What a run is to be: the settings, groups, profiles and behaviours that a file and the options ask for."""
