"""The sweep service and its hands: studies, leases, workers, results, promotion."""
