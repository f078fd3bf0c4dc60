// pgx v4: its own protocol code, binary, a cache of prepared statements, batches, COPY, a pool.
// See tests/drivers/README.md.
package main

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

var ctx = context.Background()

func ok(step string) { fmt.Println("ok", step) }

func check(err error) {
	if err != nil {
		log.Panicf("%v (%#v)", err, err)
	}
}

func is(got, wanted interface{}) {
	if !reflect.DeepEqual(got, wanted) {
		log.Panicf("%#v, not %#v", got, wanted)
	}
}

// Exactly this SQLSTATE comes.
func fails(err error, code string) {
	var told *pgconn.PgError
	if !errors.As(err, &told) || told.Code != code {
		log.Panicf("%v, not %s", err, code)
	}
}

func address(mode string) string {
	return fmt.Sprintf("host=%s port=%s user=%s password=%s dbname=postgres connect_timeout=20 sslmode=%s sslrootcert=%s",
		os.Getenv("PGHOST_"), os.Getenv("PGPORT_"), os.Getenv("PGUSER_"), os.Getenv("PGPASSWORD_"), mode, os.Getenv("ROOT_CERT"))
}

func config(mode string) *pgx.ConnConfig {
	c, err := pgx.ParseConfig(address(mode))
	check(err)
	if options := os.Getenv("PGOPTIONS"); options != "" {
		c.RuntimeParams["options"] = options
	}
	return c
}

func connect() *pgx.Conn {
	c, err := pgx.ConnectConfig(ctx, config("verify-full"))
	check(err)
	return c
}

func row(i int) string { return fmt.Sprintf("row %d ü \\ \" ' %d", i, i*7919%1000) }

func checksum(count int) string {
	sum := md5.New()
	for i := 0; i < count; i++ {
		fmt.Fprintf(sum, "%d:%s\n", i, row(i))
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// The same sum, made by the server over (id, v).
func serverChecksum(table string) string {
	return `select md5(coalesce(string_agg(id || ':' || v || E'\n', '' order by id), '')) from ` + table
}

func text(c *pgx.Conn, query string, values ...interface{}) (got string) {
	check(c.QueryRow(ctx, query, values...).Scan(&got))
	return
}

func waysIn() {
	for _, mode := range []string{"require", "verify-full"} {
		c, err := pgx.ConnectConfig(ctx, config(mode))
		check(err)
		is(text(c, "select '42'"), "42")
		check(c.Close(ctx))
		ok(mode)
	}
	simple := config("verify-full")
	simple.PreferSimpleProtocol = true
	c, err := pgx.ConnectConfig(ctx, simple)
	check(err)
	is(text(c, "select $1::text", `ü ' \`), `ü ' \`)
	check(c.Close(ctx))
	ok("simple-protocol")
	if _, err := pgx.Connect(ctx, address("disable")); err == nil || !regexp.MustCompile(`(?i)tls|ssl|encrypt`).MatchString(err.Error()) {
		log.Panicf("plain text: %v", err)
	}
	ok("plain-refused")
}

func types(c *pgx.Conn) {
	moment := time.Date(2024, 2, 29, 12, 0, 0, 1000, time.UTC)
	for i := 0; i < 3; i++ {
		var (
			large   int64
			real    float64
			words   string
			raw     []byte
			flag    bool
			nothing *string
			numbers []int32
			when    time.Time
			facts   map[string]interface{}
			key     [16]byte
		)
		check(c.QueryRow(ctx, `select $1::int8, $2::float8, $3::text, $4::bytea, $5::bool, $6::text, $7::int4[], $8::timestamptz, $9::jsonb, $10::uuid`,
			int64(1)<<62, 1.5, `naïve € 🐘 \ ' "`, []byte{0, 255, 10}, true, nil, []int32{1, 2, 3}, moment,
			map[string]interface{}{"a": []interface{}{1.0, "ü"}}, [16]byte{1, 2, 3},
		).Scan(&large, &real, &words, &raw, &flag, &nothing, &numbers, &when, &facts, &key))
		is(large, int64(1)<<62)
		is(real, 1.5)
		is(words, `naïve € 🐘 \ ' "`)
		is(raw, []byte{0, 255, 10})
		is(flag, true)
		is(nothing, (*string)(nil))
		is(numbers, []int32{1, 2, 3})
		is(when.Equal(moment), true)
		is(facts, map[string]interface{}{"a": []interface{}{1.0, "ü"}})
		is(key, [16]byte{1, 2, 3})
	}
	is(text(c, "select $1::numeric::text", "1234567890.000001"), "1234567890.000001")
	ok("types")
}

func prepared(c *pgx.Conn) {
	_, err := c.Prepare(ctx, "doubled", "select ($1::int * 2)::text")
	check(err)
	for i := 0; i < 200; i++ {
		is(text(c, "doubled", i), strconv.Itoa(i*2))
	}
	check(c.Deallocate(ctx, "doubled"))
	// More texts than the cache of the library holds.
	for i := 0; i < 700; i++ {
		is(text(c, fmt.Sprintf("select ($1::int + %d)::text", i), 1), strconv.Itoa(i+1))
	}
	_, err = c.Prepare(ctx, "wrong", "select * from nowhere")
	fails(err, "42P01")
	_, err = c.Prepare(ctx, "wrong", "select 'right'")
	check(err)
	is(text(c, "wrong"), "right")
	ok("prepared")
}

func batch(c *pgx.Conn) {
	_, err := c.Exec(ctx, "create table pgx_batch (id int primary key, v text)")
	check(err)
	queued := &pgx.Batch{}
	for i := 0; i < 2000; i++ {
		queued.Queue("insert into pgx_batch values ($1, $2)", i, row(i))
	}
	queued.Queue("select count(*)::text from pgx_batch")
	results := c.SendBatch(ctx, queued)
	for i := 0; i < 2000; i++ {
		done, err := results.Exec()
		check(err)
		is(done.RowsAffected(), int64(1))
	}
	var count string
	check(results.QueryRow().Scan(&count))
	is(count, "2000")
	check(results.Close())
	is(text(c, serverChecksum("pgx_batch")), checksum(2000))
	// One of them fails: none of them happened.
	queued = &pgx.Batch{}
	for _, i := range []int{5000, 1, 5001} {
		queued.Queue("insert into pgx_batch values ($1, 'x')", i)
	}
	fails(c.SendBatch(ctx, queued).Close(), "23505")
	is(text(c, "select count(*)::text from pgx_batch"), "2000")
	ok("batch")
}

func transaction(c *pgx.Conn) {
	_, err := c.Exec(ctx, "create table pgx_t (id int primary key, v text); insert into pgx_t values (1, 'kept')")
	check(err)
	tx, err := c.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.Serializable})
	check(err)
	var level string
	check(tx.QueryRow(ctx, "show transaction_isolation").Scan(&level))
	is(level, "serializable")
	_, err = tx.Exec(ctx, "insert into pgx_t values (2, 'lost')")
	check(err)
	nested, err := tx.Begin(ctx)
	check(err)
	_, err = nested.Exec(ctx, "insert into pgx_t values (2, 'twice')")
	fails(err, "23505")
	_, err = nested.Exec(ctx, "select 1")
	fails(err, "25P02")
	check(nested.Rollback(ctx))
	check(tx.QueryRow(ctx, "select count(*)::text from pgx_t").Scan(&level))
	is(level, "2")
	check(tx.Rollback(ctx))
	is(text(c, "select string_agg(v, ',') from pgx_t"), "kept")
	ok("transaction")
}

func hasErrors(c *pgx.Conn) {
	for statement, code := range map[string]string{
		"select * from nowhere": "42P01", "insert into pgx_t values (1, 'x')": "23505", "select 1/0": "22012", "selekt": "42601",
	} {
		_, err := c.Exec(ctx, statement)
		fails(err, code)
		is(text(c, "select 'on'"), "on")
	}
	ok("errors")
}

func cancel(c *pgx.Conn) {
	over := make(chan struct{})
	var canceller sync.WaitGroup
	canceller.Add(1)
	go func() {
		defer canceller.Done()
		for {
			select {
			case <-over:
				return
			case <-time.After(200 * time.Millisecond):
				check(c.PgConn().CancelRequest(ctx))
			}
		}
	}()
	_, err := c.Exec(ctx, "select pg_sleep(60)")
	close(over)
	canceller.Wait()
	fails(err, "57014")
	is(text(c, "select '5'"), "5")
	// A context that ends closes the connection, and the library sends a cancel behind it.
	other := connect()
	soon, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	if _, err := other.Exec(soon, "select pg_sleep(60) /* pgx left */"); err == nil || !pgconn.Timeout(err) {
		log.Panicf("not given up: %v", err)
	}
	<-other.PgConn().CleanupDone()
	ok("cancel")
}

func copies(c *pgx.Conn) {
	const count = 100000
	_, err := c.Exec(ctx, "create table pgx_copy (id int, v text)")
	check(err)
	done, err := c.CopyFrom(ctx, pgx.Identifier{"pgx_copy"}, []string{"id", "v"},
		pgx.CopyFromSlice(count, func(i int) ([]interface{}, error) { return []interface{}{i, row(i)}, nil }))
	check(err)
	is(done, int64(count))
	is(text(c, serverChecksum("pgx_copy")), checksum(count))
	var back bytes.Buffer
	_, err = c.PgConn().CopyTo(ctx, &back, "copy (select id || ':' || v from pgx_copy order by id) to stdout (format csv, quote E'\\x01')")
	check(err)
	sum := md5.Sum(back.Bytes())
	is(hex.EncodeToString(sum[:]), checksum(count))
	_, err = c.CopyFrom(ctx, pgx.Identifier{"pgx_copy"}, []string{"id", "v"},
		pgx.CopyFromSlice(10, func(i int) ([]interface{}, error) {
			if i == 5 {
				return nil, errors.New("changed my mind")
			}
			return []interface{}{i, "x"}, nil
		}))
	if err == nil {
		log.Panic("the broken COPY went through")
	}
	is(text(c, "select count(*)::text from pgx_copy"), strconv.Itoa(count))
	ok("copy")
}

func bigValue(c *pgx.Conn) {
	big := strings.Repeat("0123456789abcdef", 4<<20)
	var sum, back string
	check(c.QueryRow(ctx, "select encode(sha256(v::bytea), 'hex'), v from (select $1::text) x(v)", big).Scan(&sum, &back))
	wanted := sha256.Sum256([]byte(big))
	is(sum, hex.EncodeToString(wanted[:]))
	is(back == big, true)
	ok("big-value")
}

func notify(c *pgx.Conn) {
	_, err := c.Exec(ctx, "listen pgx_c")
	check(err)
	other := connect()
	for i := 0; i < 20; i++ {
		_, err := other.Exec(ctx, "select pg_notify('pgx_c', $1)", fmt.Sprint("hello ", i))
		check(err)
	}
	check(other.Close(ctx))
	soon, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	for i := 0; i < 20; i++ {
		got, err := c.WaitForNotification(soon)
		check(err)
		is(got.Channel+" "+got.Payload, fmt.Sprint("pgx_c hello ", i))
	}
	_, err = c.Exec(ctx, "unlisten *")
	check(err)
	ok("notify")
}

func reconnect() {
	settings, err := pgxpool.ParseConfig(address("verify-full") + " pool_max_conns=3")
	check(err)
	settings.ConnConfig.RuntimeParams = config("verify-full").RuntimeParams
	pool, err := pgxpool.ConnectConfig(ctx, settings)
	check(err)
	defer pool.Close()
	err = pool.BeginFunc(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "set local role none"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "select pg_terminate_backend(pg_backend_pid())")
		return err
	})
	fails(err, "57P01")
	var wait sync.WaitGroup
	for worker := 0; worker < 10; worker++ {
		wait.Add(1)
		go func(worker int) {
			defer wait.Done()
			for i := 0; i < 50; i++ {
				var got int
				check(pool.QueryRow(ctx, "select $1::int + count(*)::int from pgx_t", worker*1000+i).Scan(&got))
				is(got, worker*1000+i+1)
			}
		}(worker)
	}
	wait.Wait()
	ok("reconnect")
}

func main() {
	waysIn()
	c := connect()
	for _, part := range []func(*pgx.Conn){types, prepared, batch, transaction, hasErrors, cancel, copies, bigValue, notify} {
		part(c)
	}
	reconnect()
	wrong := config("verify-full")
	wrong.Password = "wrong"
	_, err := pgx.ConnectConfig(ctx, wrong)
	fails(err, "28P01")
	ok("wrong-password")
	_, err = c.Exec(ctx, "drop table pgx_batch, pgx_copy, pgx_t")
	check(err)
	check(c.Close(ctx))
	fmt.Println("all pgx v4")
}
