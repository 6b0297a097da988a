# A Perl program: lines that are made, split, counted, sorted and joined; nested structures; and a sum at the end.
#
#   perl text.pl [ROUNDS]        (6)
use strict;
use warnings;
use integer;

my $rounds = shift // 6;
my $state  = 7;

sub number {
    my ($bound) = @_;
    $state = ($state * 1103515245 + 12345) & 0x7fffffff;
    return ($state >> 8) % $bound;
}

my ($total, @kept) = (0);
for my $round (1 .. $rounds) {
    my @lines = map { join ' ', map { 'w' . number(3000) } 0 .. number(12) } 1 .. 15_000;
    my (%counts, %pairs);
    for my $line (@lines) {
        my @words = split / /, $line;
        $counts{$_}++ for @words;
        push @{ $pairs{ $words[$_ - 1] }{ $words[$_] } }, length $line for 1 .. $#words;
    }
    for my $word (sort keys %counts) {
        $total += $counts{$word} * length $word;
        for my $next (values %{ $pairs{$word} // {} }) { $total += $_ for @$next; }
    }
    my $text = join "\n", sort @lines;
    $text =~ s/w(\d+)/<$1>/g;
    $total += length($text) + (() = $text =~ /<1\d*>/g);
    push @kept, \%pairs;
    shift @kept if @kept > 2;
}
print "$total\n";
