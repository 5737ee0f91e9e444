FROM busybox
RUN a && \

  # a comment
  b && \  
	# another
  c
ENV A=1 \
  B=2
