"""`python -m airflow_vace.demo` is the program `vace-demo`."""

import sys

from airflow_vace.demo import main

sys.exit(main())
