-- found: Schema exit error: lacks what this part needs: table [stock restores all]
-- found: error: postgres@127.0.0.1:42483/fzdstdb lacks what this part needs: table public.t16": "x
-- found: hint: restore these too (more --schema or --table), or make them first; nothing was changed
-- found: 
-- found: --- stock's errors
-- way: schema jobs=4 compression=gzip sealed=false volumes=false changes=false draw=729541
CREATE SCHEMA "s2"": ""x" AUTHORIZATION "fz_owner"
;-- next
CREATE SCHEMA "s3 (P0001) [42501]"
;-- next
CREATE SCHEMA "s4‮	" AUTHORIZATION "fz.least"
;-- next
CREATE TYPE "s3 (P0001) [42501]"."ty10
line" AS ENUM (E'l11', E'l12')
;-- next
CREATE DOMAIN "s2"": ""x"."ty13" AS double precision NOT NULL
;-- next
CREATE TABLE public."t16"": ""x" ("C17 Upper" "s3 (P0001) [42501]"."ty10
line", "c18
line" text, "'c19'" "s3 (P0001) [42501]"."ty10
line"[] NOT NULL, "c20\back\" "s2"": ""x"."ty13"[], "id21" integer, CONSTRAINT "pk22" PRIMARY KEY ("id21"))
;-- next
CREATE STATISTICS "s4‮	"."st37" (ndistinct) ON "C17 Upper", "c18
line", "'c19'" FROM public."t16"": ""x"
;-- next
CREATE SCHEMA "s40"
