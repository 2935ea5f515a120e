-- found: Halves exit error: rows of would refer to rows that Upper does not have [stock restores all]
-- found: error: 1 rows of public.t15 "quoted" would refer to rows that public.T19 Upper does not have (fk53)
-- found: hint: restore the tables that they refer to as well, or first
-- found: hint: nothing was changed
-- found: 
-- found: --- stock's errors
-- way: halves jobs=4 compression=zstd:1 sealed=false volumes=false changes=false draw=585024
CREATE SCHEMA "s1" AUTHORIZATION "fz_owner"
;-- next
CREATE TYPE public."'ty2'" AS RANGE (subtype = text, multirange_type_name = public."mr3")
;-- next
CREATE TABLE public."t15 ""quoted""" ("c16
line" public."'ty2'", "c17" double precision DEFAULT ('7.877160522065777e164')::double precision, "c18" integer)
;-- next
CREATE TABLE public."T19 Upper" ("c20" text, "c21 $$ -- /* */;" bigint DEFAULT (E'1')::bigint, "c22,(a
b)" text, "c23" macaddr8 DEFAULT (E'08:00:2b:01:02:03:04:05')::macaddr8, "c24" text, "ID26 Upper" integer, "c25"": ""x" timestamp(0) DEFAULT (E'2020-01-01 00:00:00.5')::timestamp(0), CONSTRAINT "table" PRIMARY KEY ("ID26 Upper"))
;-- next
INSERT INTO public."T19 Upper" ("c20", "c21 $$ -- /* */;", "c22,(a
b)", "c23", "c24", "c25"": ""x", "ID26 Upper") VALUES ((E'=:%<񼌄')::text, (E'0')::bigint, (E'򥫚\\񀼅񩨆%n')::text, (E'08:00:2b:01:02:03:04:05')::macaddr8, (E'Û]‮`M񅟇%񣊵
$')::text, (E'2020-01-01 00:00:00.5')::timestamp(0), ('-917171649')::integer)
;-- next
ALTER TABLE public."t15 ""quoted""" ADD CONSTRAINT "fk53" FOREIGN KEY ("c18") REFERENCES public."T19 Upper" ("ID26 Upper") ON DELETE SET NULL DEFERRABLE
;-- next
CREATE TABLE "s1"."h74" ("c16
line" public."'ty2'" DEFAULT public."'ty2'"((E'﻿é😀́')::text, (E'﻿é😀́')::text, '[]'), "c17" double precision DEFAULT ('1.7253371946218284e-255')::double precision, "c18" integer DEFAULT ((41))::integer) INHERITS (public."t15 ""quoted""")
;-- next
INSERT INTO "s1"."h74" ("c16
line", "c17", "c18") VALUES (public."'ty2'"((E'  dcm ')::text, NULL, '()'), ('-6.619511668467053e166')::double precision, ((12))::integer)
