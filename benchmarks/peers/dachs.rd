<!-- What `true` is to this server's benchmarks: a user UWS of DaCHS whose jobs run that program. -->
<resource schema="bench">
  <meta name="title">Nothing, with success</meta>
  <meta name="description">What a job costs beyond its program.</meta>
  <meta name="creationDate">2026-01-01T00:00:00Z</meta>
  <meta name="creator.name">Benchmarks</meta>
  <meta name="subject">performance</meta>

  <!-- Without async, which the manual does not ask for, DaCHS 2.7 answers 403. -->
  <service id="true" allowed="uws.xml,async">
    <meta name="title">Nothing, with success</meta>
    <meta name="shortName">true</meta>
    <pythonCore>
      <inputTable>
        <inputKey name="processors" type="integer" multiplicity="single" description="Nodes of the job"/>
        <inputKey name="requested_time" type="real" unit="s" multiplicity="single" description="As asked for"/>
      </inputTable>
      <coreProc>
        <setup imports="subprocess"/>
        <code>
          subprocess.run(["true"], check=True)
          return "text/plain", b""
        </code>
      </coreProc>
    </pythonCore>
  </service>
</resource>
