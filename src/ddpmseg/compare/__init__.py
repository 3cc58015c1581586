"""Any runs side by side: ranked, tabulated, drawn."""
