-- found: Halves exit Some(0) differs: - Type: SEQUENCE SET SELECT true
-- found: - -- Name: q87 (P0001) [42501]; Type: SEQUENCE SET; Schema: s1; Owner: postgres
-- found: SELECT pg_catalog.setval('s1."q87 (P0001) [42501]"', 7, true);
-- found: -- PostgreSQL database dump complete
-- found: + -- Name: q87 (P0001) [42501]; Type: SEQUENCE SET; Schema: s1; Owner: postgres
-- found: SELECT pg_catalog.setval('s1."q87 (P0001) [42501]"', 2147483646, false);
-- found: -- PostgreSQL database dump complete
-- found: --- stderr
-- way: halves jobs=1 compression=zstd:1 sealed=false volumes=false changes=false draw=210765
CREATE SCHEMA "s1"
;-- next
CREATE SEQUENCE "s1"."q87 (P0001) [42501]" AS integer MAXVALUE 2147483647 START 2147483646
;-- next
SELECT setval(E'"s1"."q87 (P0001) [42501]"', 7, true)
