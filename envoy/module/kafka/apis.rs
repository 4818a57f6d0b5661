//! What the APIs look like, as far as a policy has to know: where a request names topics, groups and partitions, and how
//! a response says that all of it was refused.
//!
//! From the message definitions of https://kafka.apache.org/protocol (Kafka 4.1). One API is a line with its number, name,
//! first and last version, first flexible version and what it is about, then its request (>) and response (<).
//!
//! A field is a type with `@versions` where it is not in all. Types: bool i8 i16 i32 i64 uuid string bytes; `[...]` is an
//! array of structs and `(...)` one of plain values. Of a request is kept: topics with their name, id and parts (of which
//! the index), items with their kind and key, acks, session and epoch, kind, txn. `topics*` says that null stands for every
//! topic. In a response these come back, `error` is the code of the refusal and other fields have the value behind `=`,
//! null with `?`, or are zero and empty. An API that is not here is hidden from clients.

pub const APIS: &str = "
0 Produce 0 13 9 topic
> txn@3+ acks i32 topics[name@0-12 id@13+ parts[index bytes]]
< topics[name@0-12 id@13+ parts[index error i64=-1 i64=-1@2+ i64=-1@5+ array@8+ string?@8+]] i32@1+

1 Fetch 0 18 12 topic
> i32@0-14 i32 i32 i32@3+ i8@4+ session@7+ epoch@7+
  topics[name@0-12 id@13+ parts[index i32@9+ i64 i32@12+ i64@5+ i32]]
  list[string@7-12 uuid@13+ list(i32)]@7+ string@11+
< i32@1+ error@7+ i32@7+
  topics[name@0-12 id@13+ parts[index error i64=-1 i64=-1@4+ i64=-1@5+ array?@4+ i32=-1@11+ bytes]]

2 ListOffsets 0 11 6 topic
> i32 i8@2+ topics[name parts[index i32@4+ i64 i32@0]] i32@10+
< i32@2+ topics[name parts[index error array@0 i64=-1@1+ i64=-1@1+ i32=-1@4+]]

3 Metadata 0 13 9 topic
> topics*[id@10+ name] bool@4+ bool@8-10 bool@8+
< i32@3+ array string?@2+ i32=-1@1+ topics[error name id@10+ bool@1+ array i32=-2147483648@8+] i32=-2147483648@8-10
  error@13+

8 OffsetCommit 0 10 8 topic
> string i32@1+ string@1+ string@7+ i64@2-4 topics[name@0-9 id@10+ parts[index i64 i32@6+ i64@1 string]]
< i32@3+ topics[name@0-9 id@10+ parts[index error]]

9 OffsetFetch 0 10 6 group
> string@0-7 topics*[name parts(index)]@0-7
  items[key string@9+ i32@9+ topics*[name@8-9 id@10+ parts(index)]]@8+ bool@7+
< i32@3+ topics[name parts[index i64=-1 i32=-1@5+ string error]]@0-7 error@2-7
  items[key topics[name@8-9 id@10+ parts[index i64=-1 i32=-1 string error]] error]@8+

10 FindCoordinator 0 6 3 coordinator
> string@0-3 kind@1+ items(key)@4+
< i32@1+ error@0-3 string?@1-3 i32=-1@0-3 string@0-3 i32=-1@0-3
  items[key i32=-1 string i32=-1 error string?]@4+

11 JoinGroup 0 9 6 group
> string i32 i32@1+ string string@5+ string list[string bytes] string@8+
< i32@2+ error i32=-1 string?@7+ string string bool@9+ string array

12 Heartbeat 0 4 4 group
> string i32 string string@3+
< i32@1+ error

13 LeaveGroup 0 5 4 group
> string string@0-2 list[string string string@5+]@3+
< i32@1+ error array@3+

14 SyncGroup 0 5 4 group
> string i32 string string@3+ string@5+ string@5+ list[string bytes]
< i32@1+ error string?@5+ string?@5+ bytes

15 DescribeGroups 0 6 5 group
> items(key) bool@3+
< i32@1+ items[error string?@6+ key string string string array i32=-2147483648@3+]

16 ListGroups 0 5 3 cluster
> list(string)@4+ list(string)@5+
< i32@1+ error array

17 SaslHandshake 1 1 - cluster
> string
< error array

18 ApiVersions 0 4 3 cluster
> string@3+ string@3+
< error array i32@1+

19 CreateTopics 0 7 5 topic
> topics[name i32 i16 list[i32 list(i32)] list[string string]] i32 bool@1+
< i32@2+ topics[name id@7+ error string?@1+ i32=-1@5+ i16=-1@5+ array?@5+]

20 DeleteTopics 0 6 4 topic
> topics[name id]@6+ topics(name)@0-5 i32
< i32@1+ topics[name id@6+ error string?@5+]

21 DeleteRecords 0 2 2 topic
> topics[name parts[index i64]] i32
< i32 topics[name parts[index i64=-1 error]]

22 InitProducerId 0 5 2 transaction
> txn i32 i64@3+ i16@3+
< i32 error i64=-1 i16=-1

23 OffsetForLeaderEpoch 0 4 4 topic
> i32@3+ topics[name parts[index i32@2+ i32]]
< i32@2+ topics[name parts[error index i32=-1@1+ i64=-1]]

24 AddPartitionsToTxn 0 3 3 topic
> txn i64 i16 topics[name parts(index)]
< i32 topics[name parts[index error]]

25 AddOffsetsToTxn 0 4 3 transaction
> txn i64 i16 string
< i32 error

26 EndTxn 0 5 3 transaction
> txn i64 i16 bool
< i32 error i64=-1@5+ i16=-1@5+

28 TxnOffsetCommit 0 5 3 topic
> string string i64 i16 i32@3+ string@3+ string@3+ topics[name parts[index i64 i32@2+ string]]
< i32 topics[name parts[index error]]

29 DescribeAcls 0 3 2 cluster
> i8 string i8@1+ string string i8 i8
< i32 error string? array

30 CreateAcls 0 3 2 cluster
> items[i8 string i8@1+ string string i8 i8]
< i32 items[error string?]

31 DeleteAcls 0 3 2 cluster
> items[i8 string i8@1+ string string i8 i8]
< i32 items[error string? array]

32 DescribeConfigs 0 4 4 resource
> items[kind key list(string)] bool@1+ bool@3+
< i32 items[error string? kind key array]

33 AlterConfigs 0 2 2 resource
> items[kind key list[string string]] bool
< i32 items[error string? kind key]

35 DescribeLogDirs 0 5 2 cluster
> topics*[name parts(index)]
< i32 error@3+ array

36 SaslAuthenticate 0 2 2 cluster
> bytes
< error string? bytes i64@1+

37 CreatePartitions 0 3 2 topic
> topics[name i32 list[list(i32)]] i32 bool
< i32 topics[name error string?]

42 DeleteGroups 0 2 2 group
> items(key)
< i32 items[key error]

43 ElectLeaders 0 2 2 cluster
> i8@1+ topics*[name parts(index)] i32
< i32 error@1+ topics[name parts[index error string?]]

44 IncrementalAlterConfigs 0 1 1 resource
> items[kind key list[string i8 string]] bool
< i32 items[error string? kind key]

45 AlterPartitionReassignments 0 1 0 topic
> i32 bool@1+ topics[name parts[index list(i32)]]
< i32 bool@1+ error string? topics[name parts[index error string?]]

46 ListPartitionReassignments 0 0 0 cluster
> i32 topics*[name parts(index)]
< i32 error string? array

47 OffsetDelete 0 0 - topic
> string topics[name parts[index]]
< error i32 topics[name parts[index error]]

48 DescribeClientQuotas 0 1 1 cluster
> list[string i8 string] bool
< i32 error string? array?

50 DescribeUserScramCredentials 0 0 0 cluster
> list[string]
< i32 error string? array

60 DescribeCluster 0 2 0 cluster
> bool i8@1+ bool@2+
< i32 error string? i8=1@1+ string i32=-1 array i32=-2147483648

61 DescribeProducers 0 0 0 topic
> topics[name parts(index)]
< i32 topics[name parts[index error string? array]]

65 DescribeTransactions 0 0 0 transaction
> items(key)
< i32 items[error key string i32 i64 i64=-1 i16=-1 array]

66 ListTransactions 0 2 0 cluster
> list(string) list(i64) i64@1+ string@2+
< i32 error array array

68 ConsumerGroupHeartbeat 0 1 0 group
> string string i32 string string i32 topics(name) regex@1+ string list[uuid list(i32)]
< i32 error string? string? i32 i32 struct?

69 ConsumerGroupDescribe 0 1 0 group
> items(key) bool
< i32 items[error string? key string i32 i32 string array i32=-2147483648]
";

/// A Metadata response as it is read, to take topics out and put others in.
pub const METADATA_RESPONSE: &str = "
3 Metadata 0 13 9 topic
> i32@3+ list[i32 string i32 string@1+] string@2+ i32@1+
  topics[i16 name id@10+ bool@1+ list[i16 i32 i32 i32@7+ list(i32) list(i32) list(i32)@5+] i32@8+]
  i32@8-10 i16@13+
< i32
";
