FROM busybox
RUN --device=vendor.com/device=x a
RUN --device=name=vendor.com/device=y,required b
RUN --device=vendor.com/device c
