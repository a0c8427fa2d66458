"""HTTP without Airflow: settings, transports for requests and aiohttp, and the shared poller."""
