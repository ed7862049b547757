"""`python3 -m caffe_losses.gradient_check`."""

import sys

from caffe_losses.gradient_check import main

sys.exit(main())
