-- found: Empty facts of the catalogue differ: + relation
-- found: + relation|"s2"|"T17 Upper"|r|t|f|f|f
-- way: empty jobs=4 compression=none sealed=false volumes=false changes=false draw=670023
CREATE SCHEMA "s2" AUTHORIZATION "fz ""app"" ☃"
;-- next
CREATE TABLE "s2"."T17 Upper" ("id18xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" integer, CONSTRAINT "order" PRIMARY KEY ("id18xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")) WITH (toast.autovacuum_enabled = off, parallel_workers = 3)
;-- next
ALTER TABLE "s2"."T17 Upper" DROP COLUMN "id18xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
;-- next
ALTER DATABASE :"DBNAME" SET default_transaction_read_only = on
