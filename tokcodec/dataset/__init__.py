"""Token datasets: pictures of any number to Parquet, resumable, and back."""
