-- A Lua program: trees of tables, strings that are built and cut up, closures, and a sum at the end.
--
--   lua tables.lua [ROUNDS]        (36)
local rounds = tonumber(arg[1] or 36)
local state = 42

local function random(bound)
  state = (state * 1103515245 + 12345) % 2147483648
  return (state >> 8) % bound
end

local function tree(depth)
  if depth == 0 then return { value = random(1000) } end
  return { value = random(1000), left = tree(depth - 1), right = tree(depth - 1) }
end

local function sum(node)
  if node == nil then return 0 end
  return node.value + sum(node.left) - sum(node.right)
end

local total, kept = 0, {}
for round = 1, rounds do
  local one = tree(14)
  total = total + sum(one)
  kept[round % 3 + 1] = one

  local words = {}
  for i = 1, 20000 do words[i] = string.format("w%d-%x", random(5000), i) end
  table.sort(words)
  local text = table.concat(words, " ")
  local counts = {}
  for word in text:gmatch("w(%d+)") do counts[word] = (counts[word] or 0) + 1 end
  for word, count in pairs(counts) do total = total + tonumber(word) * count end

  local functions = {}
  for i = 1, 20000 do
    local n = random(100)
    functions[i] = function(x) return x + n + i end
  end
  for i = 1, #functions do total = total + functions[i](round) end
end
print(string.format("%d", total))
