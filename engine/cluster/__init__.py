"""The same run on a Ray cluster: pool, scheduler, worker, transport; Ray is used only here."""
