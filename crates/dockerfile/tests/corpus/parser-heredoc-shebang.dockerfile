FROM busybox
RUN <<SCRIPT
#!/usr/bin/env python
print("hi")
SCRIPT
RUN <<'X Y'
#!/bin/sh
X Y
RUN echo <<< here
