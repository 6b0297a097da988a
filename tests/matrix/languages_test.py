"""perl, python3, ruby, lua and node: each with a workload of its own, whose answer is that without the library."""

import matrix
from matrix import check, compare, find

PERL = r"""
use strict; use warnings;
my %lines; my @order;
for my $i (1 .. 60000) { my $k = sprintf('%06d', ($i * 7919) % 60013); $lines{$k} = "$k:" . ('x' x ($i % 400)); push @order, $k }
my $sum = 0; $sum += length($lines{$_}) for sort keys %lines;
my $text = join("\n", map { $lines{$_} } @order[0 .. 20000]);
my $n = () = $text =~ /(\d{3})\1:x{7,}/g;
my $pid = fork(); if (!$pid) { exit(scalar(keys %lines) == 60000 ? 7 : 8) } waitpid($pid, 0);
my $back = eval { local $SIG{ALRM} = sub { die "alarm\n" }; alarm 1; select(undef, undef, undef, 5); 'late' } // $@;
print "$sum $n ", $? >> 8, " $back", `echo through a shell`;
"""

RUBY = r"""
require 'set'; require 'json'; require 'digest'
words = (1..60_000).map { |i| [format('%06d', i * 7919 % 60_013), 'x' * (i % 400)] }
table = words.to_h
tree = words.first(20_000).each_slice(100).map { |slice| slice.map { |k, v| { 'k' => k, 'v' => v } } }
json = JSON.generate(tree)
raise 'JSON' unless JSON.parse(json) == tree
threads = 4.times.map { |t| Thread.new { words.each_slice(4).sum { |s| s[t] ? s[t][1].size : 0 } } }
GC.start; GC.compact if GC.respond_to?(:compact)
child = fork { exit!(table.size == 60_000 ? 7 : 8) }
Process.wait(child)
big = (1..2000).inject(:*)
puts Digest::SHA256.hexdigest(json), table.sum { |k, v| k.size + v.size }, threads.sum(&:value), $?.exitstatus,
     big.to_s.size, Set.new(table.values).size, `echo through a shell`
"""

LUA = r"""
local t, keys = {}, {}
for i = 1, 60000 do
  local k = string.format('%06d', i * 7919 % 60013)
  t[k] = k .. string.rep('x', i % 400); keys[i] = k
end
table.sort(keys)
local sum = 0
for i, k in ipairs(keys) do sum = sum + #t[k] * (i % 13) end
for i = 1, #keys, 2 do t[keys[i]] = nil end
collectgarbage()
local function each() for _, k in ipairs(keys) do if t[k] then coroutine.yield(k) end end end
local n = 0
for k in coroutine.wrap(each) do n = n + #t[k]:gsub('(%d%d)%1', '%0%0') end
print(sum, n, select(2, pcall(error, 'caught')))
"""

PYTHON = r"""
import asyncio, concurrent.futures, decimal, hashlib, json, re, sqlite3, zlib
table = {f'{i * 7919 % 60013:06}': 'x' * (i % 400) for i in range(60000)}
text = json.dumps(table, sort_keys=True)
assert json.loads(text) == table
assert zlib.decompress(zlib.compress(text.encode())).decode() == text
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    lengths = list(pool.map(lambda key: len(table[key]), sorted(table)))
base = sqlite3.connect(':memory:')
base.execute('create table t(k primary key, v)')
base.executemany('insert into t values(?, ?)', table.items())
async def many():
    return sum(await asyncio.gather(*(asyncio.to_thread(len, v) for v in list(table.values())[:300])))
decimal.getcontext().prec = 3000
print(hashlib.sha256(text.encode()).hexdigest(), sum(lengths), base.execute('select sum(length(v)) from t').fetchone(),
      asyncio.run(many()), len(re.findall(r'(\d\d)\1', text)), hash(str(decimal.Decimal(2).sqrt())) is not None)
"""

# V8's heap is its own; Buffers and what the libraries of node hold come from malloc.
NODE = r"""
const crypto = require('crypto'), zlib = require('zlib'), { Worker, isMainThread } = require('worker_threads');
const { execFileSync } = require('child_process');
const blocks = [];
for (let i = 0; i < 640; i++) {
  const block = Buffer.alloc(64 << 10, i & 255); block.writeUInt32LE(i, 4 * (i % 1000)); blocks.push(block);
}
const hash = crypto.createHash('sha256');
for (const block of blocks) hash.update(block);
for (let i = 0; i < 640; i += 2) blocks[i] = null;
if (global.gc) global.gc();
let sum = 0;
for (let i = 1; i < 640; i += 2) { if (blocks[i].readUInt32LE(4 * (i % 1000)) !== i) throw new Error('block ' + i); sum += i; }
const packed = zlib.brotliCompressSync(Buffer.concat(blocks.filter(b => b).slice(0, 8)), { params: {
  [zlib.constants.BROTLI_PARAM_QUALITY]: 4 } });
const worker = new Worker("const { parentPort } = require('worker_threads'); let n = 0; " +
  "for (let i = 0; i < 200; i++) n += Buffer.alloc(9999, 1)[i]; parentPort.postMessage(n);", { eval: true });
worker.on('message', n => console.log(hash.digest('hex'), sum, n, crypto.createHash('md5').update(
  zlib.brotliDecompressSync(packed)).digest('hex'), execFileSync('echo', ['child']).toString().trim()));
"""

with matrix.session() as scratch:
    result = compare(scratch, "perl", [find("perl"), "-e", PERL], tight="16M", witnesses=("perl",), hardened=True)
    check(b" 7 alarm\nthrough a shell\n" in result.stdout, "perl: fork, alarm and shell", result.text())
    result = compare(scratch, "ruby", [find("ruby"), "-e", RUBY], tight="16M")
    check(result.stdout.split()[3] == b"7", "ruby: fork", result.text())
    result = compare(scratch, "lua", [find("lua5.4"), "-e", LUA], tight="16M")
    check(result.stdout.endswith(b"caught\n"), "lua: errors are caught", result.text())
    python = "/usr/bin/python3"
    compare(scratch, "python", [python, "-c", PYTHON], PYTHONHASHSEED="0")
    compare(scratch, "python on malloc", [python, "-c", PYTHON], tight="48M", PYTHONHASHSEED="0", PYTHONMALLOC="malloc")
    compare(scratch, "node", [find("node"), "--expose-gc", "-e", NODE], tight="24M")
matrix.finish()
