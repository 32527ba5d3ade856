"""Networks that are not timm's: functions of the user's that return a torch module and how its input is made."""
