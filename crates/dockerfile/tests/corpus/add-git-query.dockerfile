FROM busybox
ADD https://github.com/a/b.git?branch=main /1
ADD https://github.com/a/b.git?tag=v1&subdir=s /2
ADD https://github.com/a/b.git?ref=refs/heads/x&keep-git-dir=1 /3
ADD https://github.com/a/b.git?commit=1234567890123456789012345678901234567890 /4
ADD https://github.com/a/b.git?ref=v2&checksum=1234567890123456789012345678901234567890 /5
ADD https://github.com/a/b.git?submodules=false /6
ADD https://github.com/a/b.git?branch=main&submodules=true&keep-git-dir=false /7
ADD https://github.com/a/b.git?keep-git-dir /8
