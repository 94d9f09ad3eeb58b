# Her password, where curl looks for it.
echo "machine 127.0.0.1 login ann password correct-horse" > ~/.netrc
