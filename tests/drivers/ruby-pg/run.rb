# Ruby pg over libpq: parameters, pipeline, COPY, large objects. See tests/drivers/README.md.
# PGOPTIONS is read by libpq.
require 'digest'
require 'pg'
require 'time'

ADDRESS = {
  host: ENV.fetch('PGHOST_'), port: ENV.fetch('PGPORT_'), user: ENV.fetch('PGUSER_'), password: ENV.fetch('PGPASSWORD_'),
  dbname: 'postgres', connect_timeout: 20, sslmode: 'verify-full', sslrootcert: ENV.fetch('ROOT_CERT')
}.freeze

def connect(**more)
  PG.connect(**ADDRESS, **more)
end

def ok(step)
  puts "ok #{step}"
  $stdout.flush
end

def is(got, wanted)
  raise "#{got.inspect[0, 500]}, not #{wanted.inspect[0, 500]}" unless got == wanted
end

# Exactly this error comes.
def fails(kind, state = nil)
  yield
rescue kind => e
  is(e.result&.error_field(PG::Result::PG_DIAG_SQLSTATE), state) if state
  e
else
  raise "no #{kind} came"
end

def row(i)
  "row #{i} ü \\ \" ' #{i * 7919 % 1000}"
end

def checksum(count)
  Digest::MD5.hexdigest((0...count).map { |i| "#{i}:#{row(i)}\n" }.join)
end

# The same sum, made by the server over (id, v).
def server_checksum(table)
  "select md5(coalesce(string_agg(id || ':' || v || E'\\n', '' order by id), '')) from #{table}"
end

def value(c, query, values = [])
  c.exec_params(query, values).getvalue(0, 0)
end

def ways_in
  { 'require' => { sslmode: 'require' }, 'verify-full' => {} }.each do |name, way|
    c = connect(**way)
    is(value(c, 'select 40 + 2'), '42')
    is(c.ssl_in_use?, true)
    c.finish
    ok(name)
  end
  refused = fails(PG::ConnectionBad) { connect(sslmode: 'disable') }
  raise refused unless refused.message =~ /tls|ssl|encrypt/i

  ok('plain-refused')
end

def types(c)
  c.type_map_for_results = PG::BasicTypeMapForResults.new(c)
  c.type_map_for_queries = PG::BasicTypeMapForQueries.new(c)
  moment = Time.utc(2024, 2, 29, 12, 0, 0.25)
  {
    'int8' => 2**62, 'float8' => 1.5, 'bool' => true, 'text' => "naïve € 🐘 \\ ' \"", 'numeric' => BigDecimal('1234567890.000001'),
    'int4[]' => [1, nil, 3], 'timestamptz' => moment
  }.each { |type, given| is(value(c, "select $1::#{type}", [given]), given) }
  is(value(c, 'select $1::text', [nil]), nil)
  c.type_map_for_results = PG::TypeMapAllStrings.new
  c.type_map_for_queries = PG::TypeMapAllStrings.new
  # Binary both ways.
  raw = c.exec_params('select $1::bytea, $2::int4', [{ value: "\x00\xFF\n".b, format: 1 }, { value: [7].pack('N'), format: 1 }], 1)
  is([raw.getvalue(0, 0), raw.getvalue(0, 1)], ["\x00\xFF\n".b, [7].pack('N')])
  ok('types')
end

def prepared(c)
  c.prepare('doubled', 'select $1::int * 2')
  is(c.describe_prepared('doubled').ftype(0), 23)
  200.times { |i| is(c.exec_prepared('doubled', [i]).getvalue(0, 0), (i * 2).to_s) }
  fails(PG::DuplicatePstatement, '42P05') { c.prepare('doubled', 'select 1') }
  c.exec('deallocate doubled')
  fails(PG::InvalidSqlStatementName, '26000') { c.exec_prepared('doubled', [1]) }
  fails(PG::UndefinedTable, '42P01') { c.prepare('doubled', 'select * from nowhere') }
  c.prepare('doubled', 'select $1::int * 2')
  is(c.exec_prepared('doubled', [4]).getvalue(0, 0), '8')
  ok('prepared')
end

def pipelined(c)
  c.enter_pipeline_mode
  300.times { |i| c.send_query_params('select $1::int', [i]) }
  c.pipeline_sync
  300.times do |i|
    is(c.get_result.getvalue(0, 0), i.to_s)
    is(c.get_result, nil)
  end
  is(c.get_result.result_status, PG::PGRES_PIPELINE_SYNC)
  # What stands behind an error is skipped, up to the sync.
  c.send_query_params('select 1/0', [])
  c.send_query_params('create table ruby_after_error (n int)', [])
  c.pipeline_sync
  c.send_query_params('select 8', [])
  c.pipeline_sync
  is(c.get_result.error_field(PG::Result::PG_DIAG_SQLSTATE), '22012')
  is(c.get_result, nil)
  is(c.get_result.result_status, PG::PGRES_PIPELINE_ABORTED)
  is(c.get_result, nil)
  is(c.get_result.result_status, PG::PGRES_PIPELINE_SYNC)
  is(c.get_result.getvalue(0, 0), '8')
  is(c.get_result, nil)
  is(c.get_result.result_status, PG::PGRES_PIPELINE_SYNC)
  c.exit_pipeline_mode
  is(value(c, "select to_regclass('ruby_after_error') is null"), 't')
  ok('pipeline')
end

def transaction(c)
  c.exec("create table ruby_t (id int primary key, v text); insert into ruby_t values (1, 'kept')")
  fails(ArgumentError) do
    c.transaction do
      c.exec("insert into ruby_t values (2, 'lost')")
      c.exec('savepoint s')
      fails(PG::UniqueViolation, '23505') { c.exec("insert into ruby_t values (1, 'twice')") }
      fails(PG::InFailedSqlTransaction, '25P02') { c.exec('select 1') }
      is(c.transaction_status, PG::PQTRANS_INERROR)
      c.exec('rollback to savepoint s')
      is(value(c, 'select count(*) from ruby_t'), '2')
      raise ArgumentError, 'changed my mind'
    end
  end
  is(value(c, "select string_agg(v, ',') from ruby_t"), 'kept')
  # Read row by row.
  c.send_query('select n from generate_series(1, 2000) n')
  c.set_single_row_mode
  seen = c.get_result.stream_each_row.map { |(n)| n.to_i }
  is(seen, (1..2000).to_a)
  ok('transaction')
end

def errors(c)
  {
    'select * from nowhere' => [PG::UndefinedTable, '42P01'], "insert into ruby_t values (1, 'x')" => [PG::UniqueViolation, '23505'],
    'select 1/0' => [PG::DivisionByZero, '22012'], 'selekt' => [PG::SyntaxError, '42601']
  }.each do |statement, (kind, state)|
    fails(kind, state) { c.exec(statement) }
    is(value(c, "select 'on'"), 'on')
  end
  notes = []
  c.set_notice_receiver { |note| notes << note.error_field(PG::Result::PG_DIAG_MESSAGE_PRIMARY) }
  c.exec("do $$ begin raise notice 'a note'; end $$")
  is(notes, ['a note'])
  ok('errors')
end

def cancel(c)
  over = false
  # Again and again: the first may come before the statement does.
  canceller = Thread.new do
    until over
      sleep 0.2
      c.cancel unless over
    end
  end
  fails(PG::QueryCanceled, '57014') do
    c.send_query('select pg_sleep(60)')
    c.block
    c.get_last_result
  end
  over = true
  canceller.join
  is(value(c, 'select 5'), '5')
  ok('cancel')
end

def copy(c)
  count = 100_000
  lines = (0...count).map { |i| "#{i}\t#{row(i).gsub('\\') { '\\\\' }}\n" }
  c.exec('create table ruby_copy (id int, v text)')
  done = c.copy_data('copy ruby_copy from stdin') { lines.each { |line| c.put_copy_data(line) } }
  is(done.cmd_tuples, count)
  is(value(c, server_checksum('ruby_copy')), checksum(count))
  back = []
  c.copy_data('copy (select * from ruby_copy order by id) to stdout') do
    while (line = c.get_copy_data)
      back << line
    end
  end
  is(back.join.force_encoding('UTF-8') == lines.join, true)
  # Broken off by the client.
  fails(ArgumentError) do
    c.copy_data('copy ruby_copy from stdin') do
      c.put_copy_data("1\tx\n")
      raise ArgumentError, 'changed my mind'
    end
  end
  is(value(c, 'select count(*) from ruby_copy'), count.to_s)
  ok('copy')
end

def large_object(c)
  content = Random.new(1).bytes(1 << 20)
  number = nil
  c.transaction do
    number = c.lo_creat
    large = c.lo_open(number, PG::INV_WRITE | PG::INV_READ)
    is(c.lo_write(large, content), content.bytesize)
    c.lo_lseek(large, 1 << 19, PG::SEEK_SET)
    is(c.lo_read(large, 1 << 20) == content[(1 << 19)..], true)
  end
  c.lo_unlink(number)
  ok('large-object')
end

def big_value(c)
  big = '0123456789abcdef' * (4 << 20)
  got = c.exec_params("select encode(sha256(v::bytea), 'hex'), v from (select $1::text) x(v)", [big])
  is(got.getvalue(0, 0), Digest::SHA256.hexdigest(big))
  is(got.getvalue(0, 1) == big, true)
  ok('big-value')
end

def notify(c)
  c.exec('listen ruby_c')
  other = connect
  20.times { |i| other.exec_params("select pg_notify('ruby_c', $1)", ["hello #{i}"]) }
  other.finish
  20.times do |i|
    got = nil
    c.wait_for_notify(20) { |channel, _, payload| got = [channel, payload] }
    is(got, ['ruby_c', "hello #{i}"])
  end
  c.exec('unlisten *')
  ok('notify')
end

def reconnect
  c = connect
  c.exec('set role none')
  ended = fails(PG::Error) { c.exec('select pg_terminate_backend(pg_backend_pid())') }
  raise ended unless ended.message.include?('terminating connection due to administrator command')

  fails(PG::Error) { c.exec('select 1') }
  # The library's own way back.
  c.reset
  is(value(c, 'select count(*) from ruby_t'), '1')
  c.finish
  ok('reconnect')
end

ways_in
connection = connect
%i[types prepared pipelined transaction errors cancel copy large_object big_value notify].each { |part| send(part, connection) }
reconnect
refused = fails(PG::ConnectionBad) { connect(password: 'wrong') }
raise refused unless refused.message.include?('authentication failed')

ok('wrong-password')
connection.exec('drop table ruby_t, ruby_copy')
connection.finish
puts "all pg #{PG::VERSION}, libpq #{PG.library_version}"
