"""What happens when things go wrong, counted: one file per proof, each with a control that must fail. `python -m reliability`."""
