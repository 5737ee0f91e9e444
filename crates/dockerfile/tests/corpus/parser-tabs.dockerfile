FROM	busybox
RUN	a	\
	b
ENV	A	b c
