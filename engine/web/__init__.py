"""What the pages of reports and audits have in common: style, skeleton, tables that sort, filter and are saved."""
