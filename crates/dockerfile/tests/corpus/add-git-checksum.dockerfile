FROM busybox
ADD --checksum=1234567890123456789012345678901234567890 https://github.com/a/b.git#v1 /a
ADD --checksum=1234567890123456789012345678901234567890 --keep-git-dir=true https://github.com/a/b.git?tag=v1 /b
