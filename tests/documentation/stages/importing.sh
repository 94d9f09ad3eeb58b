trace=$ROOT/../shared/data/NASA-iPSC-1993-3.1-cln.swf.gz
needs "$trace" || return
ln -s "$trace" .
