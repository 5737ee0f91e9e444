

  # comment

  FROM   busybox   

   RUN    a   b  

