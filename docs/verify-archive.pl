#!/usr/bin/env perl
# Recomputes the hash chain of an archive. Needs nothing but Perl: perl verify-archive.pl FILE
use strict;
use warnings;
use Digest::SHA qw(sha256);
use Encode qw(encode_utf8);
use IO::Uncompress::Gunzip qw($GunzipError);
use JSON::PP qw(decode_json);
use MIME::Base64 qw(decode_base64);

sub field  { my ($bytes) = @_; return pack("Q>", length $bytes) . $bytes }
sub number { return field(pack("q>", $_[0])) }
sub text   { return field(encode_utf8($_[0])) }

my $file = IO::Uncompress::Gunzip->new($ARGV[0], MultiStream => 1) or die "$ARGV[0]: $GunzipError\n";
my $lines = Digest::SHA->new(256);
$lines->add(my $first = $file->getline);
my $header = decode_json($first);
$header->{format} eq "eventstore-archive/1" or die "unknown format $header->{format}\n";
my ($position, $hash) = ($header->{after}{position}, pack("H*", $header->{after}{hash}));
my ($events, $erased, $trailer) = (0, 0);

while (defined(my $line = $file->getline)) {
    my $event = decode_json($line);
    if ($event->{head}) { $trailer = $event; last }
    $lines->add($line);
    $position++, $events++;
    $event->{position} == $position or die "position $position: missing\n";
    my $digest = pack("H*", $event->{digest});
    if (exists $event->{salt}) {
        my $data = exists $event->{data_base64}
            ? decode_base64($event->{data_base64})
            : encode_utf8($event->{data} // "");
        sha256(field(pack("H*", $event->{salt})) . text($event->{metadata} // "") . field($data)) eq $digest
            or die "position $position: payload or metadata are not those that were recorded\n";
    }
    else { $erased++ }
    $hash = sha256(field($hash)
        . number($position)
        . number($event->{version})
        . number($event->{time})
        . field($digest)
        . text($event->{stream})
        . text($event->{id})
        . text($event->{type}));
    unpack("H*", $hash) eq $event->{hash}
        or die "position $position: the event or one before it was changed\n";
}
$trailer or die "the archive was cut off\n";
$trailer->{events} == $events && $trailer->{head}{position} == $position && $trailer->{head}{hash} eq unpack("H*", $hash)
    or die "the trailer tells of another end\n";
$trailer->{sha256} eq $lines->hexdigest or die "the archive was changed: its digest is not the one in its trailer\n";
defined $file->getline and die "there is something after the trailer\n";
print "$events events, $erased erased, head $position ", unpack("H*", $hash), "\n";
