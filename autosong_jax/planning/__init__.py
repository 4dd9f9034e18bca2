"""How much memory training takes on devices that need not be here: `report.report` says it in words."""
